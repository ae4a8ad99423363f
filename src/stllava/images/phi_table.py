"""Attributes of a DICOM header that can identify a person, by the kind of what they say.

Source: DICOM PS3.15, Annex E, Table E.1-1 (Basic Application Level Confidentiality Profile),
https://dicom.nema.org/medical/dicom/current/output/chtml/part15/chapter_E.html. Of its several
hundred rows those are here that imaging devices and archives really fill. UIDs are left out: every
object has them, and none travels.
"""

from __future__ import annotations

PATIENT = """
    PatientName PatientID IssuerOfPatientID OtherPatientIDs OtherPatientNames
    OtherPatientIDsSequence PatientBirthName PatientMotherBirthName PatientAddress
    PatientTelephoneNumbers PatientTelecomInformation PatientBirthDate PatientBirthTime
    PatientInsurancePlanCodeSequence MilitaryRank BranchOfService CountryOfResidence
    RegionOfResidence PatientReligiousPreference EthnicGroup Occupation ResponsiblePerson
    ResponsiblePersonRole ResponsibleOrganization PersonAddress PersonTelephoneNumbers
    PersonName MedicalRecordLocator PatientAlternativeCalendar PatientBirthDateInAlternativeCalendar
    PatientInstitutionResidence CurrentPatientLocation
"""
NUMBERS = """
    AccessionNumber IssuerOfAccessionNumberSequence StudyID AdmissionID IssuerOfAdmissionID
    ServiceEpisodeID IssuerOfServiceEpisodeID RequestedProcedureID ScheduledProcedureStepID
    PerformedProcedureStepID FillerOrderNumberImagingServiceRequest
    PlacerOrderNumberImagingServiceRequest OrderCallbackPhoneNumber ClinicalTrialSubjectID
    ClinicalTrialSubjectReadingID DeviceSerialNumber PlateID DetectorID CassetteID GantryID
    DeviceUID UDISequence
"""
PEOPLE = """
    ReferringPhysicianName ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers
    ReferringPhysicianIdentificationSequence PhysiciansOfRecord PerformingPhysicianName
    NameOfPhysiciansReadingStudy OperatorsName RequestingPhysician ConsultingPhysicianName
    ScheduledPerformingPhysicianName VerifyingObserverName HumanPerformerName
    ContentCreatorName NamesOfIntendedRecipientsOfResults OrderEnteredBy ReviewerName
    InterpretationRecorder InterpretationTranscriber InterpretationAuthor
    PhysicianApprovingInterpretation DistributionName ActualHumanPerformersSequence
    AuthorObserverSequence ParticipantSequence
"""
PLACES = """
    InstitutionName InstitutionAddress InstitutionalDepartmentName InstitutionCodeSequence
    StationName PerformedStationName PerformedLocation ScheduledStationName RequestingService
    ClinicalTrialSiteName ClinicalTrialSiteID ClinicalTrialSponsorName
    ClinicalTrialCoordinatingCenterName ScheduledStudyLocation PerformedStationAETitle
    RetrieveAETitle StationAETitle InstitutionalDepartmentTypeCodeSequence
"""
DATES = """
    StudyDate SeriesDate AcquisitionDate ContentDate InstanceCreationDate AcquisitionDateTime
    StudyTime SeriesTime AcquisitionTime ContentTime InstanceCreationTime AdmittingDate
    AdmittingTime DischargeDate PerformedProcedureStepStartDate PerformedProcedureStepEndDate
    ScheduledProcedureStepStartDate LastMenstrualDate DateOfSecondaryCapture OverlayDate CurveDate
    VerificationDateTime DateOfLastCalibration TimezoneOffsetFromUTC PatientAge
"""
TEXTS = """
    PatientComments ImageComments StudyComments VisitComments StudyDescription SeriesDescription
    ProtocolName RequestedProcedureDescription PerformedProcedureStepDescription
    AdmittingDiagnosesDescription AdditionalPatientHistory MedicalAlerts Allergies PatientState
    SpecialNeeds ReasonForStudy ReasonForTheRequestedProcedure RequestedProcedureComments
    CommentsOnThePerformedProcedureStep ImagingServiceRequestComments DerivationDescription
    AcquisitionComments AcquisitionDeviceProcessingDescription ContributionDescription
    IdentifyingComments RequestAttributesSequence TextComments TextString Arbitrary
    ContentSequence GraphicAnnotationSequence
"""
IDENTIFYING = {
    keyword: code
    for code, keywords in {
        "dicom-patient": PATIENT,
        "dicom-number": NUMBERS,
        "dicom-person": PEOPLE,
        "dicom-place": PLACES,
        "dicom-date": DATES,
        "dicom-text": TEXTS,
    }.items()
    for keyword in keywords.split()
}

# Devices and programs that write text into pixels: captures of a screen, ultrasound, scanned film.
RISKY_MODALITIES = frozenset({"US", "SC", "OT", "XC", "ES", "IVUS", "GM", "SM", "DG", "DOC"})
RISKY_TYPES = frozenset({"SECONDARY", "SCREEN SAVE", "SCREENSHOT"})
RISKY_CONVERSIONS = frozenset({"WSD", "DV", "DI", "DF", "SYN", "SI", "DRW", "SD"})
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds below it

# EXIF and TIFF tags (Pillow's names) by what they say; all others are counted as "other".
EXIF = {
    "exif-gps": {"GPSInfo"},
    "exif-person": {"Artist", "CameraOwnerName", "Copyright", "XPAuthor", "HostComputer"},
    "exif-text": {
        *("ImageDescription", "UserComment", "XPComment", "XPSubject", "XPTitle", "XPKeywords"),
        *("DocumentName", "PageName", "MakerNote", "ImageHistory", "ImageID", "ImageUniqueID"),
    },
    "exif-number": {"BodySerialNumber", "LensSerialNumber", "CameraSerialNumber"},
    "exif-date": {"DateTime", "DateTimeOriginal", "DateTimeDigitized", "PreviewDateTime"},
}
